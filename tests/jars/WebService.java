import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;

/** Serves /health and / on the port in NOMAD_PORT_http until it is stopped.
 *  Its argument is how many seconds it takes to begin.
 */
public final class WebService {
    public static void main(String[] args) throws Exception {
        Thread.sleep(args.length == 0 ? 0 : Integer.parseInt(args[0]) * 1000L);
        int port = Integer.parseInt(System.getenv("NOMAD_PORT_http"));
        HttpServer server = HttpServer.create(new InetSocketAddress("127.0.0.1", port), 0);
        server.createContext("/", exchange -> {
            byte[] body = "hello\n".getBytes(StandardCharsets.UTF_8);
            exchange.sendResponseHeaders(200, body.length);
            exchange.getResponseBody().write(body);
            exchange.close();
            System.out.println("served " + exchange.getRequestURI());
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> {
            server.stop(0);
            System.out.println("stopped");
        }));
        server.start();
        System.out.println("listening on " + port);
    }
}
