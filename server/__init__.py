"""The inference side: a gateway that follows an alias, and the engines that it starts."""
