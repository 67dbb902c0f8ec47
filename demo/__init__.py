"""The browser page: `app` is its layout, `actions` what its buttons do."""
