# What helps when something is wrong. In the running task, for example:
#   nomad alloc exec -task app <alloc> jcmd 2 Thread.print
#   nomad alloc exec -task app <alloc> jcmd 2 JFR.dump filename=/alloc/data/now.jfr
#   nomad alloc signal -s SIGQUIT <alloc>       (a thread dump into the task's log)
#   nomad alloc fs <alloc> alloc/data/          (heap dumps, recordings, garbage collector's log)
variable "url" {
  description = "Where the JARs are served, for example by: python3 -m http.server"
  default     = "http://127.0.0.1:8000"
}

job "debug" {
  type = "service"

  group "app" {
    task "app" {
      driver = "milo"

      artifact {
        source = "${var.url}/streaming-test.jar"
      }

      config {
        # A heap dump in /alloc/data when the heap is full.
        heap_dump_on_oom = true

        # A share of the task's memory for the heap, instead of Milo's default.
        heap_percent = 60

        jvm_options = [
          "-XX:NativeMemoryTracking=summary",
          "-XX:StartFlightRecording=maxsize=20m,dumponexit=true,filename=/alloc/data/app.jfr",
          "-Xlog:gc:file=/alloc/data/gc.log::filecount=2,filesize=5m",
        ]
      }

      kill_timeout = "20s"

      resources {
        cpu    = 500
        memory = 512
      }
    }
  }
}
