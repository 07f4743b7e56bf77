// A Socket.IO hub: `pub` from one client is emitted as `msg` to the room.
// Usage: socketio_server.js PORT
import { Server } from "socket.io";
import { createServer } from "node:http";

const http = createServer();
const io = new Server(http, { transports: ["websocket"], pingInterval: 600_000 });

io.on("connection", (socket) => {
  socket.on("sub", (done) => {
    socket.join("bench");
    done();
  });
  socket.on("pub", (data) => io.to("bench").emit("msg", data));
});
http.listen(Number(process.argv[2]), "127.0.0.1", () => console.log("listening"));
