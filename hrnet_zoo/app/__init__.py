"""Model -> a page for the browser, served from this machine: image in, overlay, legend and files out."""
