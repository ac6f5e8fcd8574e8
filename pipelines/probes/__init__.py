"""What a trained model tells of degradations: do its vectors tell them apart, does it heed prompts."""
