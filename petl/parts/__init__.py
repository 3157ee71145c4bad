"""What methods share: the contract of a method, elastic modules, and the pieces that they are built of."""
