"""Sources → rows → formats → tokens and masks → splits, with an account of every row."""
