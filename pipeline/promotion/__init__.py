"""Which version `Production` names, and why: admission, the rule, the promoter, and what a person does by hand."""
