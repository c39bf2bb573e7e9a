"""What people look at: colors, figures, and the table of all results that figures are drawn from."""
