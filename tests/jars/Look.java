import java.awt.Color;
import java.awt.Font;
import java.awt.Graphics2D;
import java.awt.image.BufferedImage;
import java.io.File;
import java.net.InetAddress;
import java.net.UnknownHostException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.time.ZoneId;
import java.util.Arrays;
import java.util.Scanner;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509TrustManager;

/** Looks at its surroundings: one argument a question, one line an answer. */
public final class Look {
    public static void main(String[] args) {
        for (String arg : args) {
            String[] words = arg.split(" ");
            String answer;
            try {
                answer = answer(words);
            } catch (Throwable problem) {
                answer = "failed: " + problem;
            }
            System.out.println(arg + " -> " + answer.strip().replace('\n', '|'));
        }
    }

    private static String answer(String[] words) throws Exception {
        switch (words[0]) {
            case "cwd":
                return Path.of("").toAbsolutePath().toString();
            case "exists":
                return "" + Files.exists(Path.of(words[1]));
            case "list":
                String[] names = new File(words[1]).list();
                Arrays.sort(names);
                return String.join(" ", names);
            case "read":
                return Files.readString(Path.of(words[1]));
            case "write":
                Files.writeString(Path.of(words[1]), "written");
                return "done";
            case "trust":
                return "" + trusted();
            case "zone":
                return ZoneId.of("Europe/Berlin").getId() + " " + ZoneId.systemDefault();
            case "font":
                return "" + blackPixels();
            case "resolve":
                return resolve(words[1]);
            case "load":
                System.load(words[1]);
                return "done";
            case "jcmd":
                String jcmd = System.getProperty("java.home") + "/bin/jcmd";
                return run(jcmd, "" + ProcessHandle.current().pid(), "VM.version");
            case "run":
                return run(Arrays.copyOfRange(words, 1, words.length));
            default:
                return "what?";
        }
    }

    private static int trusted() throws Exception {
        SSLContext.getDefault().createSSLEngine();
        TrustManagerFactory factory =
                TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        factory.init((KeyStore) null);
        int count = 0;
        for (TrustManager manager : factory.getTrustManagers()) {
            count += ((X509TrustManager) manager).getAcceptedIssuers().length;
        }
        return count;
    }

    private static int blackPixels() {
        System.setProperty("java.awt.headless", "true");
        BufferedImage image = new BufferedImage(200, 50, BufferedImage.TYPE_INT_RGB);
        Graphics2D graphics = image.createGraphics();
        graphics.setColor(Color.WHITE);
        graphics.fillRect(0, 0, 200, 50);
        graphics.setColor(Color.BLACK);
        graphics.setFont(new Font("SansSerif", Font.PLAIN, 30));
        graphics.drawString("Milo", 10, 40);
        int black = 0;
        for (int x = 0; x < 200; x++) {
            for (int y = 0; y < 50; y++) {
                black += image.getRGB(x, y) == 0xff000000 ? 1 : 0;
            }
        }
        return black;
    }

    private static String resolve(String name) {
        try {
            return InetAddress.getByName(name).getHostAddress();
        } catch (UnknownHostException expected) {
            return "unknown";
        }
    }

    private static String run(String... command) throws Exception {
        Process process = new ProcessBuilder(command).redirectErrorStream(true).start();
        process.getOutputStream().close();
        try (Scanner scanner = new Scanner(process.getInputStream(), "UTF-8").useDelimiter("\\A")) {
            String output = scanner.hasNext() ? scanner.next() : "";
            return process.waitFor() + " " + output;
        }
    }
}
