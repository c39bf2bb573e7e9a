"""Result files: their records, and the table of all of them."""
