# Runs a JAR once. Its output: nomad logs -job hello
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "hello" {
  type = "batch"

  group "app" {
    task "hello" {
      driver = "milo"

      # The one JAR under local/ is the application.
      artifact {
        source = "${var.url}/hello.jar"
      }

      # Nomad wants one key at least.
      config {
        args = []
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
