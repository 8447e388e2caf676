"""The scheduler and the HTTP interface of a FlowFabric server; needed only with the [server] extra."""
