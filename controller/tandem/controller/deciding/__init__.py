"""The decision: `tandem.controller.deciding.decide.decide`, and the parts it is made of. Pure."""
