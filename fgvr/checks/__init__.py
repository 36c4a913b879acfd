"""What is wrong with photos before money is spent on them: bad pictures, copies, leaks between splits, odd classes."""
