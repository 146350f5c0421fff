# Two Java versions on one node. The constraint keeps the job off clients without Java 17;
# what was chosen, and why, is the first event of each task: nomad alloc status
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "java-versions" {
  type = "batch"

  constraint {
    attribute = "${attr.driver.milo.java.17}"
    operator  = "is_set"
  }

  group "app" {
    task "on-17" {
      driver = "milo"

      artifact {
        source = "${var.url}/probe.jar"
      }

      config {
        java_version = "17"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }

    task "on-17-or-later" {
      driver = "milo"

      artifact {
        source = "${var.url}/probe.jar"
      }

      config {
        java_version = ">= 17"
      }

      resources {
        cpu    = 200
        memory = 128
      }
    }
  }
}
