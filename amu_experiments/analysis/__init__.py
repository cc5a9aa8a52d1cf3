"""From stored trials to statements: statistics, tables, figures, report; never trains."""
