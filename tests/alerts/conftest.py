def pytest_addoption(parser):
    parser.addoption("--protocol", help="a Markdown file to write the end-to-end test's table of alerts into")
