"""How many images the paper's datasets have."""

SIZES = {"celeba": 202_599, "fairface": 97_698, "utkface": 23_705, "waterbirds": 11_788}
