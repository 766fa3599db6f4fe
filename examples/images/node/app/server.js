const http = require("http");
const os = require("os");

// The heap follows the service's memory limit: start it with --max-old-space-size made from NEBH_MEMORY_BYTES.
const server = http.createServer((request, response) => {
  response.setHeader("content-type", "text/plain");
  response.end(`served by node ${process.version} on ${os.arch()}\n`);
});
server.listen(8080, "0.0.0.0");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
