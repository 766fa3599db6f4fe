import com.sun.net.httpserver.HttpServer;
import java.net.InetSocketAddress;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/** Says how large Java takes its container to be, and how many roots of trust it finds. */
public final class Server {
    public static void main(String[] arguments) throws Exception {
        var server = HttpServer.create(new InetSocketAddress(8080), 0);
        var text = "served by java " + Runtime.version().feature() + "\n" + describe();
        server.createContext("/", exchange -> {
            var answer = text.getBytes(StandardCharsets.UTF_8);
            exchange.getResponseHeaders().set("content-type", "text/plain");
            exchange.sendResponseHeaders(200, answer.length);
            try (var body = exchange.getResponseBody()) {
                body.write(answer);
            }
        });
        Runtime.getRuntime().addShutdownHook(new Thread(() -> server.stop(1)));
        server.start();
    }

    private static String describe() throws Exception {
        var runtime = Runtime.getRuntime();
        var factory = TrustManagerFactory.getInstance("PKIX");
        factory.init((KeyStore) null);
        var roots = ((X509TrustManager) factory.getTrustManagers()[0]).getAcceptedIssuers().length;
        return "heap " + runtime.maxMemory() + "\ncores " + runtime.availableProcessors() + "\nroots " + roots + "\n";
    }
}
