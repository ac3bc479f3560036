"""Which input each weight reads: geometry and masks."""
