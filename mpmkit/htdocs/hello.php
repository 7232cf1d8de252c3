<?php echo "hello world"; ?>
