"""Pictures, the report and the model card, made from what the stages measured."""
