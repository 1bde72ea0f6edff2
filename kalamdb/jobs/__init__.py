"""Background work under leases: expiry, trimming and other housekeeping."""
