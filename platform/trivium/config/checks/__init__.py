"""What is checked of a resolved config: values, what concerns several keys, constructors, files and folders."""
