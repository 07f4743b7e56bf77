// The plain broadcast server from the documentation of `ws`: what one client
// sends goes to every client that was opened at /sub. Usage: ws_server.js PORT
import { WebSocketServer } from "ws";

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]) });
const subscribers = new Set();

server.on("connection", (socket, request) => {
  if (request.url === "/sub") {
    subscribers.add(socket);
    socket.on("close", () => subscribers.delete(socket));
  }
  socket.on("error", () => subscribers.delete(socket));
  socket.on("message", (data) => {
    for (const subscriber of subscribers) subscriber.send(data, { binary: false });
  });
});
server.on("listening", () => console.log("listening"));
