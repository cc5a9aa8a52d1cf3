"""Makes statistics, tables, figures, verdicts and a report from stored trials; never trains."""
