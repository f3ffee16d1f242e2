"""One module a system: model, data, loss, optimiser and schedule; see ``base.Workload``."""
