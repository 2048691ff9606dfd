"""What several tests share: small apps, real servers, stores, and how to break them."""
