"""What everything else stands on: validation, linear algebra, geometry, progress, tables, files."""
