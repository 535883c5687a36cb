"""Who a party is and what it consented to: keys, task files and their terms, consents."""
