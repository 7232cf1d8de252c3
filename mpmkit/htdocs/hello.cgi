#!/bin/sh
# The article's script as a program of its own: a process for each request (RFC 3875).
printf 'Content-Type: text/html\r\n\r\nhello world'
