"""What people look at: progress on the screen, pictures, tables and reports."""
