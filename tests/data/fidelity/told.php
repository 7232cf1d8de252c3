<?php
header("Content-Type: text/plain");
foreach (["REQUEST_METHOD", "QUERY_STRING", "SCRIPT_NAME", "SCRIPT_FILENAME", "PATH_INFO", "PATH_TRANSLATED",
          "REQUEST_URI", "CONTEXT_PREFIX", "DOCUMENT_ROOT", "CONTENT_LENGTH", "CONTENT_TYPE", "REDIRECT_URL",
          "REDIRECT_STATUS", "REDIRECT_QUERY_STRING", "REDIRECT_REQUEST_METHOD"] as $name)
    echo $name, " ", rawurlencode($_SERVER[$name] ?? "-"), "\n";
echo md5(file_get_contents("php://input"));
