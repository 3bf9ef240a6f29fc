"""What did each stage cost? SQL and ready questions over an energyd store."""
