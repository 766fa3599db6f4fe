"""Floor 5: the privileged half of a node. It verifies, decides, acts, journals and answers with receipts."""
