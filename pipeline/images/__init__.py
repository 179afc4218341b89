"""The picture downloader: from URLs to decoded pictures or a reason, politely and in bounded memory and time."""
