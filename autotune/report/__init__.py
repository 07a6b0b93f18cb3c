"""What people look at: tables and a plot for the terminal (`tables`, `plot`), a page for the browser (`page`)."""
