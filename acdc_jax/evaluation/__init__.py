"""Members × tasks → skills and responses, and what is measured with them."""
