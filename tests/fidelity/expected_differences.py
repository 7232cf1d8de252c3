"""Why we differ from httpd where we do: the reasons behind the table in docs/FIDELITY.md.

Keys are `area/case`, with shell wildcards; the first that fits is the reason. An entry that no
longer explains anything is reported, so that the list stays as short as the truth.
"""

from __future__ import annotations

SAYS_LENGTH = (
    "every error page says its length, so that a client knows it is whole without waiting "
    "for the close"
)
NEEDS_VALUE = "a directive without its value is a mistake, and said to be one"
REST_OF_LINE = "a second word after On or Off is a mistake, and not ignored"
HARD_LIMIT = (
    "GracefulShutdownTimeout is a limit: who is left then is cut. httpd's worker and event "
    "then go through another nine seconds of TERM before they kill"
)
NINE_SECONDS = (
    "a child of httpd's event with a thread blocked in a read outlives TERM until it is "
    "killed after nine seconds; ours end at once"
)
EINTR = (
    "httpd's prefork with mod_reqtimeout takes the signal for a read error and answers 400; ours "
    "finishes the request"
)

NO_FINAL_STATUS = (
    "a script's status is a final one, 200 to 599 (RFC 9110, 15): with another one its client could "
    "not tell where the response ends, so it is a 500 with a line in the error log"
)
KEEPS_ALLOW = (
    "405 names the methods that do work (RFC 9110, 15.5.6) also where an ErrorDocument has the page; "
    "httpd drops the header then"
)

ON_PURPOSE: dict[str, str] = {
    "directive/MaxConnectionsPerChild": "httpd's threaded children leave at once with a negative "
                                        "value, forever; it is refused",
    "directive/MaxRequestsPerChild": "as MaxConnectionsPerChild",
    "directive/KeepAlive": REST_OF_LINE,
    "directive/ExtendedStatus": REST_OF_LINE,
    "directive/BufferedLogs": REST_OF_LINE,
    "directive/DirectorySlash": REST_OF_LINE,
    "directive/FallbackResource": "a name without its slash would be another file below each directory: the "
                                  "path from the root is asked for",
    "directive/FileETag": NEEDS_VALUE,
    "directive/DirectoryIndex": NEEDS_VALUE,
    "directive/Options": NEEDS_VALUE,
    "directive/ProxyTimeout": "0 says: as Timeout, which is its default",
    "directive/SSLProtocol": NEEDS_VALUE,
    "hosts/no host: -S": "a host of an address that has no ServerName: its name is its address, DNS is not "
                         "asked for one",
    "hosts/Files: /*/one.txt of *": "below a directory that is not there a <Files> decides by the name that "
                                    "was asked: 403, where httpd says 404",
    "http/10-range-416": SAYS_LENGTH,
    "http/84-413-body-over-1GiB": SAYS_LENGTH,
    "http/79-expect-unknown-417": "httpd closes without saying so; we say it",
    "http/78-expect100": "the handler does not want the body, answers at once and ends the connection "
                         "(RFC 9110, 10.1.1); httpd asks for the body and drops it",
    "status/page: headers (*": "the page is made before it is sent, so it has a length; httpd sends a "
                               "longer one in chunks",
    "status/POST /server-status": "405 names the methods that do work; httpd looks for a file and "
                                  "does not find it",
    "timeline/SIGTERM to a child (worker)": "TERM ends a child under every MPM, and it is replaced; "
                                            "httpd's threaded children ignore it",
    "timeline/SIGTERM to a child (event)": "TERM ends a child under every MPM, and it is replaced",
    "timeline/SIG* with a mistake in the file (*)": "a typo should not end a service: the mistake is "
                                                   "logged and the running server goes on",
    "signal/SIGUSR1 (prefork): half-sent": EINTR,
    "signal/SIGWINCH (prefork): half-sent": EINTR,
    "signal/SIGWINCH (worker): half-sent": HARD_LIMIT,
    "signal/SIGWINCH (event): half-sent": HARD_LIMIT,
    "signal/SIGTERM (event): a new client": NINE_SECONDS + ", with the listening socket open",
    "signal/SIGTERM (event): half-sent": NINE_SECONDS,
    "signal/SIGHUP (event): [!a]*": NINE_SECONDS,
    "rules/Directory *[*], index": "httpd lets an index file of the directory pass by a pattern that denies "
                                   "it when it is asked for by its name; here it is denied both ways",
    "rules/*, not there": "a path decides, not what is on the disk: of what is not there, or stands below "
                          "a file, 403 and 404 may change places; neither sends anything",
    "access/closed: SSLRequire false": "httpd evaluates it for clients that speak TLS only; here it is closed",
    "kinds/* script Status: [0169]*": NO_FINAL_STATUS,
    "kinds/* script Status: 20||body": NO_FINAL_STATUS,
    "kinds/* script Status: 2000||body": NO_FINAL_STATUS,
    "kinds/* script Status: abc||body": NO_FINAL_STATUS,
    "kinds/* script Status:||body": NO_FINAL_STATUS,
    "kinds/* script Location: ||body": "an empty Location leads nowhere: it is as if it were not there",
    "kinds/* script Content-Length: 3||body": "bytes beyond a script's Content-Length would be the beginning "
                                              "of the next response: they are not sent",
    "kinds/PUT *": KEEPS_ALLOW, "kinds/DELETE *": KEEPS_ALLOW, "kinds/PATCH *": KEEPS_ALLOW,
    "kinds/PROPFIND *": KEEPS_ALLOW,
    "kinds/OPTIONS /none/": "the media type of a directory is no type of the answer's, which has no body",
    "kinds/target of https": "a target's own host comes before the Host header whatever its scheme (RFC 9112, "
                             "3.2.2); httpd minds the scheme",
    "kinds/target without host": "an http URL has a host (RFC 9110, 4.2.1)",
    "cli/-t, unclosed section": "every mistake in a file has AH00526 and its line",
    "cli/-t, missing include": "every mistake in a file has AH00526 and its line",
    "cli/-k stop, broken file": "a server can be stopped whatever its file says: the PidFile that it "
                                "names is enough",
}  # fmt: skip

MISSING: dict[str, str] = {}
