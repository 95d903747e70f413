"""A classifier in a process of its own: POST {"text", "image"} gives {"unsafe"}. Its port goes into a file."""

import base64
import io
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
from PIL import Image


class Service(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(asked["image"]))))
        content = json.dumps({"unsafe": bool(picture.mean() > 0.4 * 255)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


with ThreadingHTTPServer(("127.0.0.1", 0), Service) as server:
    with open(f"{sys.argv[1]}.part", "w") as file:
        file.write(str(server.server_port))
    os.replace(f"{sys.argv[1]}.part", sys.argv[1])
    server.serve_forever()
