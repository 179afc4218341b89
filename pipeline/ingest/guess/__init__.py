"""What lies in a strange folder, and how a run would read it: `stage.guess`, for `cm3 init`."""
