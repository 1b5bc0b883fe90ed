"""Reference pages and their pictures, made from what plugins, recipes and packages say of themselves."""
