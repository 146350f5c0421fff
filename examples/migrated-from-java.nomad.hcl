# A job of Nomad's java driver after the change of one word: driver = "java" was here.
# What else may be of use then is marked; docs/migrate-from-java.md has the whole list.
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "migrated" {
  type = "batch"

  group "app" {
    task "probe" {
      driver = "milo"

      artifact {
        source = "${var.url}/probe.jar"
      }

      config {
        jar_path    = "local/probe.jar"
        jvm_options = ["-Xss512k", "-Dmilo.test=migrated"]
        args        = ["--task", "${NOMAD_TASK_NAME}"]
        cap_drop    = ["all"] # An event says that it has no effect: there are none to drop.

        # New: the root directory is read-only, so relative paths begin where one can write.
        work_dir = "/local/work"

        # New: no -Xmx, since the heap is sized to the task's memory. A share of one's own:
        heap_percent = 60

        # New: not whatever java is first on the agent's PATH.
        java_version = ">= 11"
      }

      # New: nothing comes from the agent's environment.
      env {
        TZ = "Europe/Berlin"
      }

      resources {
        cpu    = 500
        memory = 256
      }
    }
  }
}
