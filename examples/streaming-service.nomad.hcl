# A service whose output is followed live: nomad logs -f -job streaming
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "streaming" {
  type = "service"

  group "app" {
    task "streaming-test" {
      driver = "milo"

      artifact {
        source = "${var.url}/streaming-test.jar"
      }

      config {
        args = []
      }

      # Keeps at most 5 files of 10 MB for each of stdout and stderr.
      logs {
        max_files     = 5
        max_file_size = 10
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
