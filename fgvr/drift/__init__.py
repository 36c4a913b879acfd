"""What has changed since training: scores of single photos, tests of parts of them, and photos that fit nothing."""
