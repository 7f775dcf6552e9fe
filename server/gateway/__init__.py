"""The gateway: follows the alias, routes to engines. Never imports torch."""
