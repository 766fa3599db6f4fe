const http = require("http");
const os = require("os");
const v8 = require("v8");

const server = http.createServer((request, response) => {
  const heap = v8.getHeapStatistics().heap_size_limit;
  response.setHeader("content-type", "text/plain");
  response.end(`served by node ${process.version} on ${os.arch()}\nheap ${heap}\n`);
});
server.listen(8080, "0.0.0.0");
process.on("SIGTERM", () => server.close(() => process.exit(0)));
