// Reads requests (a JSON array of {headers, body}) from stdin as CloudEvents, and writes what it read.
const { HTTP } = require("cloudevents");

let input = "";
process.stdin.on("data", (chunk) => { input += chunk; });
process.stdin.on("end", () => {
  const read = JSON.parse(input).map((message) => {
    const found = HTTP.toEvent(message);
    const events = Array.isArray(found) ? found : [found];
    events.forEach((event) => event.validate());
    return events.map((event) => event.toJSON());
  });
  process.stdout.write(JSON.stringify(read));
});
