"""Write the dashboards."""

from scripts.dashboards.files import FILES, text

if __name__ == "__main__":
    for file, dashboard in FILES.items():
        file.write_text(text(dashboard))
