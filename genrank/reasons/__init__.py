"""Why a listing stands where it stands: written by the model, held to the facts."""
