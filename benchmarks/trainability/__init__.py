"""Does the verdict predict training? Random networks, trained for real, beside what gradlint says of them unseen."""
