"""What a trained model is shipped as, and fusing pairs with it."""
