"""Students: small timm models with class and aspect outputs, how they see images, and how they are kept in a folder."""
